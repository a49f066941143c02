# Rails' MemCacheStore on Dalli 5 against the server: what a Rails application's cache does.
#
# Usage: memcached_rails.rb PORT. Ends with 0 if all holds.

require "logger"
# Rails asks for the gem; the library is in the path.
module Kernel
  def gem(*) = true
end
# Dalli 5 asks for Ruby 3.3; this is what it uses that Ruby 3.1 has not.
unless String.method_defined?(:byteindex)
  class String
    def byteindex(text, offset = 0) = b.index(text.b, offset)
  end
end
require "dalli"
require "active_support"
require "active_support/cache"
require "active_support/cache/mem_cache_store"

Dalli.logger = Logger.new($stderr, level: Logger::ERROR)
SERVER = "127.0.0.1:#{ARGV.fetch(0)}"
NAME = "Rails #{ActiveSupport::VERSION::STRING} on Dalli #{Dalli::VERSION}"
raise "Dalli 5 is needed, this is #{Dalli::VERSION}" if Dalli::VERSION.to_i < 5

def check(holds, what = nil)
  raise "does not hold: #{what || caller(1, 1)}" unless holds
end

def basics(cache)
  ["text", 7, nil, [1, { a: 2.5 }], "€" * 1000, "x" * 500_000].each do |value|
    check cache.write("k", value)
    check cache.read("k") == value
  end
  check cache.exist?("k") && !cache.exist?("none") && cache.read("none").nil?
  check cache.fetch("lazy") { 42 } == 42 && cache.fetch("lazy") { 43 } == 42
  check cache.fetch("lazy", force: true) { 44 } == 44
  check cache.delete("k") && !cache.exist?("k")
  check cache.write("once", 1, unless_exist: true) && !cache.write("once", 2, unless_exist: true)
  check cache.write("ключ с пробелом", 1) && cache.read("ключ с пробелом") == 1
  check cache.write("k" * 400, 1) && cache.read("k" * 400) == 1
end

def many(cache)
  pairs = (0...200).to_h { |index| ["m:#{index}", index] }
  cache.write_multi(pairs, expires_in: 100)
  check cache.read_multi(*pairs.keys, "none") == pairs
  check cache.fetch_multi("m:1", "new") { |key| "made #{key}" } == { "m:1" => 1, "new" => "made new" }
  cache.delete_multi(pairs.keys)
  check cache.read_multi(*pairs.keys) == {}
end

def numbers(cache)
  check cache.increment("n", 1, expires_in: 100) == 1
  check cache.increment("n", 9) == 10 && cache.decrement("n", 4) == 6 && cache.decrement("n", 100).zero?
  check cache.write("raw", "5", raw: true) && cache.increment("raw") == 6 && cache.read("raw", raw: true) == "6"
end

def expiry(cache)
  cache.write("t", "v", expires_in: 1000, race_condition_ttl: 10)
  check cache.read("t") == "v"
  cache.write("t", "v", expires_in: 40 * 24 * 3600)
  check cache.read("t") == "v", "more than thirty days"
  cache.write("versioned", 1, version: 1)
  check cache.read("versioned", version: 1) == 1 && cache.read("versioned", version: 2).nil?
  check cache.stats.fetch(SERVER)["curr_connections"].to_i >= 1
  cache.clear
  check cache.read("t").nil?
end

cache = ActiveSupport::Cache::MemCacheStore.new(SERVER, namespace: "app", pool: { size: 3, timeout: 5 })
cache.clear
%i[basics many numbers expiry].each do |test|
  send(test, cache)
  puts "#{NAME}: #{test}"
end
threads = Array.new(6) { Thread.new { 50.times { cache.increment("threads") } } }
threads.each(&:join)
raise "increments are lost" unless cache.read("threads", raw: true).to_i == 300

puts "#{NAME}: all"
