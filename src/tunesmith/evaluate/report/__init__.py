"""From measured routes to what a person reads: `record` (and report.json), `page` (report.html), `terminal` (text, Markdown)."""
