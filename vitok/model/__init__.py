"""The auto-encoder: tubelets in, a Gaussian latent per tubelet, tubelets out."""
