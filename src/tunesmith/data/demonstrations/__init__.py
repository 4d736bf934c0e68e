"""How few-shot demonstrations are chosen: one file each, `choose(pool, items, shots, seed, label_of, similar)`."""
