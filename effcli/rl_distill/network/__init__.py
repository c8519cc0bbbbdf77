"""The networks of the policies, and several of them computed as one."""
