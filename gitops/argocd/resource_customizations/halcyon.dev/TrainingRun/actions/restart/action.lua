-- A value that is new asks for a restart, and the time is new at every second.
local os = require("os")
if obj.metadata.annotations == nil then
  obj.metadata.annotations = {}
end
obj.metadata.annotations["halcyon.dev/restart"] = os.date("!%Y-%m-%dT%H:%M:%SZ")
return obj
