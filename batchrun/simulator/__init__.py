"""The simulator: an endpoint on loopback that speaks DeepInfra's dialect and counts what was paid."""
