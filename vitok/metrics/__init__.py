"""How reconstructions are measured."""
