"""The main example: a variational autoencoder and an energy on handwritten digits."""
