"""Named points on animals: where templates come from, and how their points are found on other crops."""
