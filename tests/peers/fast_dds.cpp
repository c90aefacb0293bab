// A peer on Fast DDS (Debian: libfastrtps-dev) as rmw_fastrtps makes one for another computer: UDP, sockets of the
// kernel's default size, writing in the caller's thread. Messages are passed on as they are, serialised.
//
//   fast_dds read DOMAIN TOPIC TYPE
//   fast_dds send DOMAIN best_effort|reliable RATE SECONDS MESSAGE TOPIC...
//   fast_dds view DOMAIN best_effort|reliable TOPIC...
//   fast_dds call DOMAIN SERVICE TYPE REQUEST
//
// `read`, best effort, prints "matched", then the first byte and the length of the payload of each sample, encapsulation
// header included, whose bytes after it are all the same; "torn" otherwise. `send` and `view` are those of
// benches/peers/cyclone.py, line by line. `call` asks a service as rmw_fastrtps does and prints the reply; both are CDR in
// hexadecimal digits. All end with their standard input.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <memory>
#include <poll.h>
#include <string>
#include <sys/resource.h>
#include <thread>
#include <unistd.h>
#include <vector>

#include <fastdds/dds/domain/DomainParticipant.hpp>
#include <fastdds/dds/domain/DomainParticipantFactory.hpp>
#include <fastdds/dds/publisher/DataWriter.hpp>
#include <fastdds/dds/publisher/Publisher.hpp>
#include <fastdds/dds/subscriber/DataReader.hpp>
#include <fastdds/dds/subscriber/DataReaderListener.hpp>
#include <fastdds/dds/subscriber/SampleInfo.hpp>
#include <fastdds/dds/subscriber/Subscriber.hpp>
#include <fastdds/dds/topic/Topic.hpp>
#include <fastdds/dds/topic/TopicDataType.hpp>
#include <fastdds/rtps/transport/UDPv4TransportDescriptor.h>

using namespace eprosima::fastdds::dds;
using eprosima::fastrtps::rtps::InstanceHandle_t;
using eprosima::fastrtps::rtps::SerializedPayload_t;
using Message = std::vector<unsigned char>;

constexpr auto REALLOC = eprosima::fastrtps::rtps::PREALLOCATED_WITH_REALLOC_MEMORY_MODE;

struct Bytes : TopicDataType {
  explicit Bytes(const std::string& name) {
    setName(name.c_str());
    m_typeSize = 32 << 20;
    m_isGetKeyDefined = false;
  }
  bool serialize(void* data, SerializedPayload_t* payload) override {
    const auto& message = *static_cast<Message*>(data);
    payload->encapsulation = CDR_LE;
    payload->length = message.size();
    std::copy(message.begin(), message.end(), payload->data);
    return true;
  }
  bool deserialize(SerializedPayload_t* payload, void* data) override {
    static_cast<Message*>(data)->assign(payload->data, payload->data + payload->length);
    return true;
  }
  std::function<uint32_t()> getSerializedSizeProvider(void* data) override {
    return [data] { return static_cast<uint32_t>(static_cast<Message*>(data)->size()); };
  }
  void* createData() override { return new Message; }
  void deleteData(void* data) override { delete static_cast<Message*>(data); }
  bool getKey(void*, InstanceHandle_t*, bool) override { return false; }
};

// Nanoseconds since the epoch.
int64_t now() {
  using namespace std::chrono;
  return duration_cast<nanoseconds>(system_clock::now().time_since_epoch()).count();
}

// Seconds that the process used.
double cpu() {
  rusage used;
  getrusage(RUSAGE_SELF, &used);
  auto seconds = [](const timeval& time) { return time.tv_sec + time.tv_usec / 1e6; };
  return seconds(used.ru_utime) + seconds(used.ru_stime);
}

double cpu_before = 0;

// Whether the standard input ends within so many milliseconds.
bool ended(int milliseconds) {
  pollfd input{0, POLLIN, 0};
  return poll(&input, 1, milliseconds) > 0;
}

DomainParticipant* join(const char* domain) {
  DomainParticipantQos qos;
  qos.transport().use_builtin_transports = false;  // its shared memory would go round the sockets
  qos.transport().user_transports.push_back(std::make_shared<eprosima::fastdds::rtps::UDPv4TransportDescriptor>());
  return DomainParticipantFactory::get_instance()->create_participant(atoi(domain), qos);
}

Topic* topic(DomainParticipant* participant, const std::string& name, const std::string& type) {
  TypeSupport(new Bytes(type)).register_type(participant);
  return participant->create_topic(name, type, TOPIC_QOS_DEFAULT);
}

Topic* image(DomainParticipant* participant, const char* name) {
  return topic(participant, std::string("rt") + name, "sensor_msgs::msg::dds_::Image_");
}

DataReader* reader(DomainParticipant* participant, Topic* topic, bool reliable, DataReaderListener* listener) {
  DataReaderQos qos;
  qos.reliability().kind = reliable ? RELIABLE_RELIABILITY_QOS : BEST_EFFORT_RELIABILITY_QOS;
  qos.history().depth = 4;
  qos.endpoint().history_memory_policy = REALLOC;
  return participant->create_subscriber(SUBSCRIBER_QOS_DEFAULT)->create_datareader(topic, qos, listener);
}

DataWriter* writer(DomainParticipant* participant, Topic* topic, bool reliable) {
  DataWriterQos qos;
  qos.reliability().kind = reliable ? RELIABLE_RELIABILITY_QOS : BEST_EFFORT_RELIABILITY_QOS;
  qos.history().depth = 5;
  qos.endpoint().history_memory_policy = REALLOC;
  qos.publish_mode().kind = SYNCHRONOUS_PUBLISH_MODE;
  return participant->create_publisher(PUBLISHER_QOS_DEFAULT)->create_datawriter(topic, qos);
}

bool matched(DataReader* reader) {
  SubscriptionMatchedStatus status;
  reader->get_subscription_matched_status(status);
  return status.current_count > 0;
}

bool matched(DataWriter* writer) {
  PublicationMatchedStatus status;
  writer->get_publication_matched_status(status);
  return status.current_count > 0;
}

// Hands over every sample.
struct Listener : DataReaderListener {
  int at = 0;
  void on_data_available(DataReader* reader) override {
    Message message;
    SampleInfo info;
    while (reader->take_next_sample(&message, &info) == ReturnCode_t::RETCODE_OK) {
      if (info.valid_data && message.size() > 12) sample(message);
    }
  }
  virtual void sample(const Message& message) = 0;
};

struct Printer : Listener {
  void on_subscription_matched(DataReader*, const SubscriptionMatchedStatus& status) override {
    if (status.current_count_change > 0) puts("matched");
  }
  void sample(const Message& data) override {
    bool whole = std::all_of(data.begin() + 4, data.end(), [&](unsigned char b) { return b == data[4]; });
    if (whole) printf("%d %zu\n", data[4], data.size()); else puts("torn");
  }
};

struct Viewer : Listener {
  void sample(const Message& message) override {
    int32_t sec;
    uint32_t nanosec;
    memcpy(&sec, &message[4], 4);
    memcpy(&nanosec, &message[8], 4);
    printf("{\"at\": %d, \"ms\": %.3f}\n", at, (now() - sec * 1000000000LL - nanosec) / 1e6);
  }
};

int read(char** args) {
  auto* participant = join(args[0]);
  Printer printer;
  if (!reader(participant, topic(participant, args[1], args[2]), false, &printer)) return 1;
  while (!ended(1000)) {}
  return 0;
}

int view(char** args) {
  auto* participant = join(args[0]);
  std::vector<std::unique_ptr<Viewer>> viewers;
  std::vector<DataReader*> readers;
  for (char** name = args + 2; *name; ++name) {
    viewers.push_back(std::make_unique<Viewer>());
    viewers.back()->at = readers.size();
    readers.push_back(reader(participant, image(participant, *name), !strcmp(args[1], "reliable"), viewers.back().get()));
  }
  for (bool told = false; !ended(10);) {
    if (!told && std::all_of(readers.begin(), readers.end(), [](DataReader* reader) { return matched(reader); })) {
      told = true;
      cpu_before = cpu();
      printf("{\"matched\": %zu}\n", readers.size());
    }
  }
  return 0;
}

int send(char** args) {
  auto* participant = join(args[0]);
  std::vector<DataWriter*> writers;
  for (char** name = args + 5; *name; ++name) {
    writers.push_back(writer(participant, image(participant, *name), !strcmp(args[1], "reliable")));
  }
  auto is_matched = [](DataWriter* writer) { return matched(writer); };
  while (!std::all_of(writers.begin(), writers.end(), is_matched)) {
    if (ended(10)) return 1;
  }
  std::this_thread::sleep_for(std::chrono::seconds(1));  // the other side knows of the match, too
  std::ifstream file(args[4], std::ios::binary);
  Message message{std::istreambuf_iterator<char>(file), {}};
  const double rate = atof(args[2]);
  const int count = rate * atof(args[3]) + 0.5;
  cpu_before = cpu();
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < count; ++i) {
    std::this_thread::sleep_until(start + std::chrono::nanoseconds(int64_t(1e9 * i / rate)));
    for (auto* writer : writers) {
      const int64_t stamp = now();
      const int32_t sec = stamp / 1000000000;
      const uint32_t nanosec = stamp % 1000000000;
      memcpy(&message[4], &sec, 4);
      memcpy(&message[8], &nanosec, 4);
      if (!writer->write(&message)) fputs("Fast DDS refuses to write\n", stderr);
    }
  }
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  printf("{\"sent\": %d, \"seconds\": %.3f}\n", count, took.count());
  while (!ended(1000)) {}
  return 0;
}

int call(char** args) {
  auto* participant = join(args[0]);
  const std::string name = args[1], type = args[2], digits = args[3];
  auto* replies = reader(participant, topic(participant, "rr" + name + "Reply", type + "_Response_"), true, nullptr);
  auto* requests = writer(participant, topic(participant, "rq" + name + "Request", type + "_Request_"), true);
  while (!matched(requests) || !matched(replies)) {
    if (ended(10)) return 1;
  }
  std::this_thread::sleep_for(std::chrono::seconds(1));  // the server knows of the match, too
  Message request, reply;
  for (size_t i = 0; i < digits.size(); i += 2) request.push_back(std::stoi(digits.substr(i, 2), nullptr, 16));
  eprosima::fastrtps::rtps::WriteParams identity;
  identity.related_sample_identity().writer_guid() = replies->guid();
  requests->write(&request, identity);
  while (!ended(10)) {
    SampleInfo info;
    if (replies->take_next_sample(&reply, &info) != ReturnCode_t::RETCODE_OK || !info.valid_data) continue;
    if (info.related_sample_identity.sequence_number() != identity.sample_identity().sequence_number()) return 1;
    for (unsigned char byte : reply) printf("%02x", byte);
    puts("");
    return 0;
  }
  return 1;
}

int main(int argc, char** argv) {
  if (argc < 5) return 2;
  setvbuf(stdout, nullptr, _IOLBF, 0);
  const std::string role = argv[1];
  if (role == "read") return read(argv + 2);
  if (role == "call") return call(argv + 2);
  int code = role == "send" ? send(argv + 2) : view(argv + 2);
  printf("{\"cpu_s\": %.3f}\n", cpu() - cpu_before);
  return code;
}
