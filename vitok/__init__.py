"""ViTok: a Vision Transformer auto-encoder, its metrics and the reader of its latent stores."""
