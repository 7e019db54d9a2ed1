"""What a model's features do while it samples; knows models and samplers, and draws figures."""
