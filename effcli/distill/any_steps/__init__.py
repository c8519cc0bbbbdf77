"""Students of any number of sampling steps from one training: consistency distillation and shortcut models."""
