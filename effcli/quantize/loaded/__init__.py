"""The network that `load` and `from_pretrained` give: an ordinary one to diffusers, with packed layers inside."""
