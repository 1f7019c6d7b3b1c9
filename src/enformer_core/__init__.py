"""The models: Enformer, its ablation switches and what is put on top of it."""
