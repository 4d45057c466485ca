"""Where errors come from, how steady boxes are, what labels could give, and what an archive takes."""
