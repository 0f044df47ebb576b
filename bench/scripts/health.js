// Asks a gateway for its health at a fixed rate, as an ordinary k6 script: our
// executor starts the iterations, begin() and end() measure from the due time.
//
//   PLUMBLINE_TARGET=http://127.0.0.1:8000 bin/k6 run bench/scripts/health.js
//
//   PLUMBLINE_TARGET    base URL of the gateway
//   PLUMBLINE_RATE      iterations per second (default 100)
//   PLUMBLINE_WINDOW    how long (default 10s)
//   PLUMBLINE_VUS       most iterations at once (default 50)
//   PLUMBLINE_EXECUTOR  plumbline-arrival-rate (default), or k6's constant-arrival-rate to compare
import http from 'k6/http';
import { begin, end } from 'k6/x/plumbline';

const executor = __ENV.PLUMBLINE_EXECUTOR || 'plumbline-arrival-rate';
const vus = Number(__ENV.PLUMBLINE_VUS || 50);

export const options = {
  scenarios: {
    health: Object.assign(
      { executor, rate: Number(__ENV.PLUMBLINE_RATE || 100), duration: __ENV.PLUMBLINE_WINDOW || '10s' },
      executor === 'plumbline-arrival-rate' ? { vus } : { preAllocatedVUs: vus },
    ),
  },
  thresholds: { dropped_iterations: ['count==0'] },
  summaryTrendStats: ['min', 'med', 'p(95)', 'p(99)', 'p(99.9)', 'max', 'count'],
};

export default function () {
  begin();
  http.get(`${__ENV.PLUMBLINE_TARGET}/health`);
  end('health');
}
