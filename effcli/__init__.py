"""effcli: vision models made smaller, faster, or able to keep learning."""

__version__ = "0.2.0"
