"""The fault storm: real workers, servers of their own, damage of many kinds, and an auditor. `make chaos`."""
