-- TrainingRun keeps to kstatus: observedGeneration, and the conditions Ready, Reconciling and Stalled.
-- What they mean in each phase stands in docs/guides/gitops.md of Halcyon.

-- Whatever stands in the status, a script that fails would show as an error of Argo CD: so every type is looked at first.
local function table_or_empty(value)
  if type(value) == "table" then
    return value
  end
  return {}
end

local function health(word, message)
  local found = { status = word }
  if type(message) == "string" and message ~= "" then
    found.message = message
  end
  return found
end

local status = table_or_empty(obj.status)
local generation = table_or_empty(obj.metadata).generation

local conditions = {}
for _, condition in pairs(table_or_empty(status.conditions)) do
  condition = table_or_empty(condition)
  if type(condition.type) == "string" then
    conditions[condition.type] = condition
  end
end

local function holds(kind)
  return conditions[kind] ~= nil and conditions[kind].status == "True"
end

local function message(kind)
  return table_or_empty(conditions[kind]).message
end

if type(status.observedGeneration) ~= "number" or status.observedGeneration ~= generation then
  return health("Progressing", "waiting for the operator to look at this version of the run")
end
if holds("Stalled") then
  return health("Degraded", message("Stalled"))
end
if holds("Failed") then
  return health("Degraded", message("Failed"))
end
if holds("Suspended") then
  return health("Suspended", message("Suspended"))
end
if holds("Reconciling") then
  return health("Progressing", message("Reconciling"))
end
if holds("Ready") then
  -- On fewer slices than asked for a run still trains: worth a word, and no fault.
  if holds("Degraded") then
    return health("Healthy", message("Degraded"))
  end
  return health("Healthy", message("Ready"))
end
return health("Progressing", message("Ready") or "waiting for the operator")
