"""Networks, as pure functions of their variables."""
