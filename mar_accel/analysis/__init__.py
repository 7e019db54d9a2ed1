"""Analysis of plans, redundancy and caches; it samples with models and draws figures."""
