"""Reinforced data: pairs stored with the embeddings that teachers give them."""
