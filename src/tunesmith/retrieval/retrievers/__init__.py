"""Ways to score passages for a query; one file a retriever."""
