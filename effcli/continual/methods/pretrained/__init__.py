"""Methods that adapt a trained backbone to each task."""
