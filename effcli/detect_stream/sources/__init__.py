"""Where frames come from: sequences, videos, pipes; what the command line names is opened here."""
