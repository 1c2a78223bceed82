"""The store under every feature: typed, ordered values of tenants."""
