-- What may be done to a run now: nothing to one that has ended, no checkpoint of one that does not train,
-- and no restart of one that rests or has not begun.
local actions = {}
local spec = type(obj.spec) == "table" and obj.spec or {}
local status = type(obj.status) == "table" and obj.status or {}

if status.phase == "Succeeded" then
  return actions
end
if spec.suspend == true then
  actions["resume"] = { ["displayName"] = "Resume from the checkpoint", ["iconClass"] = "fa fa-fw fa-play" }
else
  actions["suspend"] = { ["displayName"] = "Save and suspend", ["iconClass"] = "fa fa-fw fa-pause" }
  if type(status.attempt) == "number" and status.attempt > 0 then
    actions["restart"] = { ["displayName"] = "Save and restart", ["iconClass"] = "fa fa-fw fa-redo" }
  end
end
if status.phase == "Running" then
  actions["checkpoint"] = { ["displayName"] = "Save a checkpoint", ["iconClass"] = "fa fa-fw fa-save" }
end
return actions
