"""Media in, uint8 clips out."""
