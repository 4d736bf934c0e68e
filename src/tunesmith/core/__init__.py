"""The ground floor: records, registry, configuration, seeds, run directories. Imports nothing else of Tunesmith."""
