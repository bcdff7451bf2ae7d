"""A diffusion transformer over latents: configured, trained, sampled."""
