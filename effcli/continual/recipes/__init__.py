"""The recipe classes of the families of methods; what all share is in :mod:`effcli.continual.recipe`."""
