"""A packed model in the formats of others, and what each of them loses."""
