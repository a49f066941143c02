# Dalli 5 against the server: meta commands only, as a Rails application or Sidekiq would use it.
#
# Usage: memcached_dalli.rb PORT, with the database of `tests/src/client_scripts.rs` behind `user:*`. Ends with 0 if all holds.

require "json"
require "logger"
# Dalli 5 asks for Ruby 3.3; this is what it uses that Ruby 3.1 has not.
unless String.method_defined?(:byteindex)
  class String
    def byteindex(text, offset = 0) = b.index(text.b, offset)
  end
end
require "dalli"

Dalli.logger = Logger.new($stderr, level: Logger::ERROR)
SERVER = "127.0.0.1:#{ARGV.fetch(0)}"
NAME = "Dalli #{Dalli::VERSION}"
raise "Dalli 5 is needed, this is #{Dalli::VERSION}" if Dalli::VERSION.to_i < 5

def check(holds, what = nil)
  raise "does not hold: #{what || caller(1, 1)}" unless holds
end

def basics(client)
  ["text", "€", 7, nil, [1, { "a" => 2.5 }], :symbol, "\x00\xff\r\n".b, "long" * 100_000].each do |value|
    check client.set("k", value)
    check client.get("k") == value, value.inspect[0, 100]
  end
  check client.get("none").nil?
  check client.add("k", 1) == false
  check client.add("a", "b", 100, raw: true)
  check client.replace("a", "c", 100, raw: true)
  check client.replace("none", "c") == false
  check client.append("a", "d") && client.prepend("a", "b")
  check client.get("a", raw: true) == "bcd"
  check client.delete("a")
  check client.delete("a") == false
  check client.fetch("lazy", 100) { 42 } == 42 && client.fetch("lazy", 100) { 43 } == 42
  check client.set("ключ с пробелом", 1) && client.get("ключ с пробелом") == 1, "keys that need base64"
  check client.set("k" * 300, 1) && client.get("k" * 300) == 1, "keys that are too long are shortened"
end

def many(client)
  pairs = (0...300).to_h { |index| ["m:#{index}", index] }
  client.set_multi(pairs, 100) if client.respond_to?(:set_multi)
  client.quiet { pairs.each { |key, value| client.set(key, value) } }
  check client.get_multi(*pairs.keys, "none") == pairs
  client.quiet do
    client.delete("m:0")
    client.incr("none", 1)
    client.append("none", "x")
    client.replace("none", "x")
    client.add("m:1", "x")
  end
  check client.get_multi("m:0", "m:1") == { "m:1" => 1 }
  client.delete_multi(pairs.keys) if client.respond_to?(:delete_multi)
  seen = {}
  client.set("seen", 1)
  client.get_multi("seen") { |key, value| seen[key] = value }
  check seen == { "seen" => 1 }
end

def cas(client)
  check client.cas("none") { 1 }.nil?
  client.set("c", 1)
  check client.cas("c") { |value| value + 1 }
  check client.get("c") == 2
  value, unique = client.get_cas("c")
  check value == 2 && unique.positive?
  check client.set_cas("c", 3, unique)
  check client.set_cas("c", 4, unique) == false
  _, unique = client.get_cas("c")
  check client.replace_cas("c", 5, unique)
  check client.delete_cas("c", unique) == false
  check client.get("c") == 5
  _, unique = client.get_cas("c")
  check client.delete_cas("c", unique)
end

def numbers(client)
  check client.incr("n", 1).nil?
  check client.incr("n", 1, 100, 10) == 10 && client.incr("n", 5) == 15
  check client.decr("n", 100).zero?
  check client.decr("d", 1, nil, 3) == 3
  client.set("n", (2**64 - 1).to_s, nil, raw: true)
  check client.incr("n", 2) == 1
  client.set("n", "text", nil, raw: true)
  begin
    client.incr("n", 1)
  rescue Dalli::DalliError => e
    check e.message.include?("CLIENT_ERROR"), e.message
  else
    raise "text counts"
  end
end

def times(client)
  check client.set("t", 1, 100)
  check client.touch("t", 1000) && client.touch("none", 1000).nil?
  check client.gat("t", 500) == 1
  check client.set("t", 1, 40 * 24 * 3600) && client.get("t") == 1, "more than thirty days"
  check client.set("t", 1, 4_000_000_000 % (2**31)) && client.get("t") == 1
end

def metadata(client)
  client.set("meta", "v", 1000)
  found = client.get_with_metadata("meta", return_hit_status: true, skip_lru_bump: true)
  check found[:value] == "v" && found[:cas].positive?, found.inspect
  found = client.get_with_metadata("stub", vivify_ttl: 30)
  check found[:won_recache] && found[:value].nil? || found[:value].to_s.empty?, found.inspect
  check client.get_with_metadata("stub", vivify_ttl: 30)[:lost_recache]
  value = client.fetch_with_lock("locked", ttl: 100, lock_ttl: 10) { "computed" }
  check value == "computed" && client.get("locked") == "computed"
  check client.delete("locked", { invalidate: true, tombstone_ttl: 30 })
  check client.get_with_metadata("locked")[:stale]
end

def server(client)
  stats = client.stats.fetch(SERVER)
  check stats["curr_connections"].to_i >= 1 && stats["version"], stats.inspect
  check client.stats(:settings).fetch(SERVER)
  check client.version.fetch(SERVER).match?(/\A\d/)
  check client.reset_stats
  check client.alive! if client.respond_to?(:alive!)
  client.set("gone", 1)
  check client.flush.all? && client.get("gone").nil?
  begin
    client.set("large", Random.bytes(3_000_000), nil, raw: true)
  rescue Dalli::ValueOverMaxSize, Dalli::DalliError => e
    check e.message.match?(/large|max|bytes/i), e.message
  end
  check client.set("after", 1) && client.get("after") == 1
end

def loaders(client)
  check JSON.parse(client.get("user:42", raw: true))["name"] == "user 42"
  check client.get("user:100000", raw: true).nil?
  users = client.get_multi(*(1..50).map { |id| "user:#{id}" })
  check users.values.map { |user| JSON.parse(user)["id"] }.sort == (1..50).to_a
end

client = Dalli::Client.new(SERVER)
client.flush
%i[basics many cas numbers times metadata server loaders].each do |test|
  send(test, client)
  puts "#{NAME}: #{test}"
end
threads = Array.new(8) do
  Thread.new { 100.times { client.incr("threads", 1, nil, 1) } }
end
threads.each(&:join)
raise "#{client.get('threads', raw: true)} increments of 800" unless client.get("threads", raw: true).to_i == 800

namespaced = Dalli::Client.new(SERVER, namespace: "app", compress: true, serializer: JSON)
namespaced.set("n", { "a" => ["x" * 5000] })
raise "namespace" unless namespaced.get("n") == { "a" => ["x" * 5000] } && client.get("n") != namespaced.get("n")
puts "#{NAME}: all"
