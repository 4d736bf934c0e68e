"""From predictions to a verdict: item results, forgetting, comparison and the report."""
