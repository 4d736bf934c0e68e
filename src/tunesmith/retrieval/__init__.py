"""Passages found for a question: chunks of documents, retrievers, an index on disk, and how found passages are weighed."""
