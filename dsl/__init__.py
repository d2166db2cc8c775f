"""Mathematics: text to tree to checked spec to facts. Never imports torch."""
