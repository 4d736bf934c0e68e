"""Task sources that Tunesmith brings along: one file each, with `splits()`, a licence and a citation."""
