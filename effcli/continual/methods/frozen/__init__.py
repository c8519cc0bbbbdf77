"""Methods on the features of a frozen, trained backbone."""
