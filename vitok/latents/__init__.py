"""Reading latent stores in a plain PyTorch program."""
