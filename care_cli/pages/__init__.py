"""Things to look at: galleries and contact sheets."""
