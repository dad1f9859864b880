// SPDX-License-Identifier: Apache-2.0
//
// Whether the dashboard's page came along with the command: in an executable, and in a package.

/**
 * Lines of sh that start the dashboard, get each file of the page and the data, and end it.
 * @param {string} command as sh is to run it, without its arguments
 */
export function dashboardServes(command) {
  return `
${command} dashboard --listen 0 > listening &
dashboard=$!
until grep -q LISTENING listening; do kill -0 $dashboard; sleep 0.1; done
port=$(sed -n 's/.*:\\([0-9]*\\)\\/$/\\1/p' listening)
for path in / /main.js /chart.js /pool.js /format.js /style.css /icon.svg /data; do
  bash -c '
    exec 3<>"/dev/tcp/127.0.0.1/$1"
    printf "GET %s HTTP/1.0\\r\\nHost: localhost\\r\\n\\r\\n" "$2" >&3
    head -n 1 <&3 | grep -q " 200 "
  ' get "$port" "$path" || { echo "the dashboard has no $path"; kill $dashboard; exit 97; }
done
kill $dashboard; wait $dashboard
echo "the dashboard serves"
`;
}
