-- A value that is new asks for a checkpoint, and the time is new at every second.
local os = require("os")
if obj.metadata.annotations == nil then
  obj.metadata.annotations = {}
end
obj.metadata.annotations["halcyon.dev/checkpoint"] = os.date("!%Y-%m-%dT%H:%M:%SZ")
return obj
