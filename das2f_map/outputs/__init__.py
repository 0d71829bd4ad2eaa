"""Files that appear complete or not at all, and work files that outlive a crash."""
