"""Few-step students of diffusion models; for now the models that distillation starts from: a teacher and a judge."""
