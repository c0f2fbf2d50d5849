"""What the benchmarks share: servers, contenders in processes of their own, ratios, verdicts, tables."""
