"""What a run will need, take and cost, before it has a device.

`assumptions` has what nobody can compute, `estimate` makes the numbers from the compiled step, `page` shows them, and
`search` tries other meshes and hardware.
"""
