"""The machines underneath: profiles, cost, placement, scaling, stores. Knows no torch, no Ray."""
