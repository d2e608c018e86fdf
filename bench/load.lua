-- wrk script: `wrk … -s load.lua URL -- VERSION METHOD BODY` sends that one request again and again,
-- and prints its result as one line of JSON for run.py.

function init(args)
  wrk.method = args[2]
  if args[3] ~= "" then wrk.body = args[3] end
  -- A request in HTTP/1.0 is how to have a connection for each: hyper_wasi answers `Connection: close`
  -- by closing without saying so, which wrk counts as an error.
  local format = wrk.format
  wrk.format = function() return (format():gsub("HTTP/1.1", args[1], 1)) end
end

function done(summary, latency)
  local e = summary.errors
  io.write(string.format(
    '{"requests": %d, "seconds": %f, "errors": %d, "p50_ms": %f, "p99_ms": %f}\n',
    summary.requests, summary.duration / 1e6, e.connect + e.read + e.write + e.status + e.timeout,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
