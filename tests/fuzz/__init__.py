"""Everything that comes from outside, given what nobody would send."""
