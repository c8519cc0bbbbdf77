"""What a picture shows: a classifier, calibrated, on pictures that are no part of its data."""
