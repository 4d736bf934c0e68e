"""Models: loading by name, directory or hub id; log-likelihoods; generation; embeddings; toy models."""
