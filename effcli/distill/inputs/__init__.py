"""What students learn from: their teacher, and examples of what it denoises."""
