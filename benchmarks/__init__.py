"""How fast nccid-fetch is, beside its peers: `make bench`. README.md in this folder says what is measured and how."""
