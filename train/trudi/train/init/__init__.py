"""Training that starts from a policy which exists: it is cloned into the one that learns (docs/training.md)."""
