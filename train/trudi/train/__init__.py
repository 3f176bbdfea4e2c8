"""Training trust-region diffusion policies in parallel simulation."""
